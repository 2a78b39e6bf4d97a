// Buffer, Reader and ReadError for Python. Whatever may block does so without the GIL; reader threads never need it.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "bindings/bind.hpp"
#include "io/reader.hpp"

namespace nb = nanobind;

namespace flashmoe {
namespace {

// Reads in flight share the native buffer, not the Python object: a reader thread that drops the last reference must
// not have to take the GIL.
struct PyBuffer {
    std::shared_ptr<Buffer> native;
};

struct PyReader {
    Reader native;

    explicit PyReader(int threads) : native(threads) {}
    ~PyReader() {
        nb::gil_scoped_release release;
        native.close();
    }
};

PyObject* read_error_type = nullptr;

void translate(const std::exception_ptr& exception, void*) {
    try {
        std::rethrow_exception(exception);
    } catch (const ReadError& error) {
        nb::object value = nb::borrow(read_error_type)(error.error, error.what());
        value.attr("ticket") = error.ticket;
        value.attr("got") = error.got;
        PyErr_SetObject(read_error_type, value.ptr());
    } catch (const std::system_error& error) {
        errno = error.code().value();
        PyErr_SetFromErrno(PyExc_OSError);
    }
}

Priority to_priority(int priority) {
    if (priority < 0 || priority >= kPriorities)
        throw std::invalid_argument("priority is 0 (demand), 1 (prefetch) or 2 (guess)");
    return static_cast<Priority>(priority);
}

int open(PyReader& reader, const std::filesystem::path& path, bool direct) {
    int error = 0;
    std::string reason;
    {
        nb::gil_scoped_release release;
        try {
            return reader.native.open(path.native(), direct);
        } catch (const std::system_error& failure) {
            error = failure.code().value();
            reason = failure.code().message();
        } catch (const NotRegular& failure) {
            error = EINVAL;
            reason = failure.what();
        }
    }
    // A name need not be UTF-8.
    const auto name = nb::steal(PyUnicode_DecodeFSDefaultAndSize(path.c_str(), std::ssize(path.native())));
    PyErr_SetObject(PyExc_OSError, nb::make_tuple(error, reason, name).ptr());
    throw nb::python_error();
}

Ticket submit_many(PyReader& reader, int file, const std::vector<std::uint64_t>& offsets, std::size_t bytes,
                   const PyBuffer& buffer, const std::vector<std::size_t>& positions, int priority) {
    if (offsets.size() != positions.size()) throw std::invalid_argument("each offset needs one position");
    std::vector<Place> places;
    places.reserve(offsets.size());
    for (std::size_t i = 0; i < offsets.size(); ++i) places.push_back({offsets[i], positions[i]});
    return reader.native.submit(file, bytes, places, buffer.native, to_priority(priority));
}

// Listens for Ctrl-C meanwhile: a disk may take seconds.
void await_any(PyReader& reader, const std::vector<Ticket>& tickets) {
    while (true) {
        {
            nb::gil_scoped_release release;
            if (reader.native.await_any(tickets, std::chrono::milliseconds(100))) return;
        }
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }
}

nb::tuple read_log(const PyReader& reader) {
    const ReadLog log = reader.native.log();
    nb::list events;
    for (const ReadEvent& e : log.events())
        events.append(nb::make_tuple(e.file, e.offset, e.bytes, e.thread, e.prefetch, e.begin, e.end));
    return nb::make_tuple(log.added(), events);
}

void bind_buffer(nb::module_& m) {
    nb::class_<PyBuffer>(m, "Buffer")
        .def(
            "__init__",
            [](PyBuffer* self, std::size_t bytes, bool huge) {
                new (self) PyBuffer{std::make_shared<Buffer>(bytes, huge)};
            },
            nb::arg("nbytes"), nb::arg("huge") = true)
        .def_prop_ro("nbytes", [](const PyBuffer& self) { return self.native->size(); })
        .def_prop_ro(
            "array",
            [](const PyBuffer& self) {
                return nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>>(self.native->data(), {self.native->size()},
                                                                         nb::find(&self));
            },
            nb::rv_policy::reference)
        .def(
            "release",
            [](PyBuffer& self, std::size_t position, std::size_t bytes) { self.native->release(position, bytes); },
            nb::arg("position"), nb::arg("nbytes"))
        .def("lock", [](PyBuffer& self) { return self.native->lock(); }, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace

void bind_reader(nb::module_& m) {
    read_error_type = PyErr_NewException("flashmoe._native.ReadError", PyExc_OSError, nullptr);
    if (read_error_type == nullptr) throw nb::python_error();
    m.attr("ReadError") = nb::borrow(read_error_type);
    nb::register_exception_translator(translate);
    bind_buffer(m);

    using unlocked = nb::call_guard<nb::gil_scoped_release>;
    nb::class_<PyReader>(m, "Reader")
        .def(nb::init<int>(), nb::arg("threads"))
        .def("open", &open, nb::arg("path"), nb::arg("direct"))
        .def(
            "submit",
            [](PyReader& self, int file, std::uint64_t offset, std::size_t bytes, const PyBuffer& buffer,
               std::size_t position, int priority) {
                const Place place{offset, position};
                return self.native.submit(file, bytes, {&place, 1}, buffer.native, to_priority(priority));
            },
            nb::arg("file"), nb::arg("offset"), nb::arg("nbytes"), nb::arg("buffer"), nb::arg("position"),
            nb::arg("priority"))
        .def("submit_many", &submit_many, nb::arg("file"), nb::arg("offsets"), nb::arg("nbytes"), nb::arg("buffer"),
             nb::arg("positions"), nb::arg("priority"))
        .def("wait", [](PyReader& self, Ticket ticket) { self.native.wait(ticket); }, nb::arg("ticket"), unlocked())
        .def(
            "wait_any",
            [](PyReader& self, const std::vector<Ticket>& tickets) { return self.native.wait_any(tickets); },
            nb::arg("tickets"), unlocked())
        .def("await_any", &await_any, nb::arg("tickets"))
        .def("ended", [](PyReader& self, const std::vector<Ticket>& tickets) { return self.native.ended(tickets); },
             nb::arg("tickets"))
        .def("cancel", [](PyReader& self, Ticket ticket) { return self.native.cancel(ticket); }, nb::arg("ticket"))
        .def("promote", [](PyReader& self, Ticket ticket) { self.native.promote(ticket); }, nb::arg("ticket"))
        .def("drain", [](PyReader& self) { self.native.drain(); }, unlocked())
        .def("close", [](PyReader& self) { self.native.close(); }, unlocked())
        .def("direct", [](const PyReader& self, int file) { return self.native.direct(file); }, nb::arg("file"))
        .def("keep_log", [](PyReader& self, std::size_t capacity) { self.native.keep_log(capacity); },
             nb::arg("capacity"))
        .def("log", &read_log)
        .def_prop_ro("reads", [](const PyReader& self) { return self.native.counters().reads; })
        .def_prop_ro("bytes_read", [](const PyReader& self) { return self.native.counters().bytes_read; })
        .def_prop_ro("read_seconds", [](const PyReader& self) { return self.native.counters().read_seconds; });
}

}  // namespace flashmoe
