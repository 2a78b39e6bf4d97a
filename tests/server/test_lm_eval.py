"""lm-evaluation-harness scores the demo model over HTTP as transformers scores the weights that `export` wrote."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers

from flashmoe.demo import TEXT
from flashmoe.pack.export import export
from flashmoe.text_engine import load
from server.conftest import running
from server.test_recipes import recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm_eval is not installed"),
]
CONTEXT, CONTINUATION, CASES = 20, 12, 3
"""Words, words and cases."""
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{text}}}}"
target_delimiter: ""
output_type: {kind}
"""
CHOICE = """
doc_to_choice: "{{choices}}"
doc_to_target: 0
metric_list: [{metric: acc}]
"""
ANSWER = """
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["."], max_gen_toks: 12}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """Two tasks on pieces of the held-out text: which of two continuations is likelier, and how it goes on."""
    directory = tmp_path_factory.mktemp("tasks")
    words = TEXT.read_text().split()
    pieces = [words[begin : begin + CONTEXT + CONTINUATION] for begin in range(0, CASES * 500, 500)]
    cases = [
        {"text": " ".join(piece[:CONTEXT]), "choices": [" " + " ".join(p[CONTEXT:]) for p in (piece, pieces[i - 1])]}
        for i, piece in enumerate(pieces)
    ]
    (directory / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    for name, kind, rest in (("choice", "multiple_choice", CHOICE), ("answer", "generate_until", ANSWER)):
        task = TASK.format(name=name, kind=kind, data=directory / "cases.jsonl") + rest
        (directory / f"{name}.yaml").write_text(task)
    return directory


@pytest.fixture(scope="module")
def transformers_scores(demo_directory, tmp_path_factory):
    """The log-likelihood of a continuation, and the number of its tokens."""
    exported = tmp_path_factory.mktemp("exported") / "checkpoint"
    export(demo_directory, exported, "float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)

    def score(context: str, continuation: str) -> tuple[float, int]:
        ids, begin = tokenizer(context + continuation)["input_ids"], len(tokenizer(context)["input_ids"])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
        return sum(logprobs[i - 1, ids[i]].item() for i in range(begin, len(ids))), len(ids) - begin

    return score


def evaluate(server, model: Path, tasks: Path, out: Path, arguments: str = "", options: tuple[str, ...] = ()):
    """What lm-eval got, task by task: arguments and answers of each request. The command is the recipe of the docs."""
    command = recipe("lm-eval", server).replace("arc_easy,gsm8k", "choice,answer").replace("DIR", str(model))
    command = command.replace("max_length=8192", f"max_length={server.engine.limits.context}{arguments}").strip()
    more = ["--include_path", tasks, "--output_path", out, "--log_samples", *options]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HF_HOME": str(out / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-c", f'{command} "$@"', "lm_eval", *more], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = {}
    for name in ("choice", "answer"):
        (path,) = out.glob(f"*/samples_{name}_*.jsonl")
        found[name] = [
            (request["arg_0"], request["arg_1"], response[0])
            for sample in map(json.loads, path.read_text().splitlines())
            for request, response in zip(sample["arguments"].values(), sample["resps"], strict=True)
        ]
    return found


def test_in_float_the_scores_are_those_of_transformers(demo_directory, tasks, transformers_scores, tmp_path):
    with load(demo_directory, backend="reference", context=512) as text, running(text) as server:
        found = evaluate(server, demo_directory, tasks, tmp_path)
    assert len(found["choice"]) == 2 * CASES
    for context, continuation, (score, _) in found["choice"]:
        expected, _ = transformers_scores(context, continuation)
        assert float(score) == pytest.approx(expected, abs=1e-3)
    with load(demo_directory, backend="reference", context=512) as text:
        for context, _, answer in found["answer"]:
            assert answer == text.generate(context, raw=True, stop=".", max_tokens=12, temperature=0).text


def test_with_rounded_activations_they_are_close_and_texts_in_batches_work_as_well(
    demo_directory, tasks, transformers_scores, tmp_path
):
    """Measured on the whole held-out text: 0.018 nats a token on average."""
    with load(demo_directory, context=512, sequences=4) as text, running(text) as server:
        found = evaluate(server, demo_directory, tasks, tmp_path, ",tokenized_requests=False", ("--batch_size", "4"))
    apart, tokens = 0.0, 0
    for context, continuation, (score, _) in found["choice"]:
        expected, count = transformers_scores(context, continuation)
        apart, tokens = apart + abs(float(score) - expected), tokens + count
    assert apart / tokens < 0.05
    assert len(found["answer"]) == CASES
