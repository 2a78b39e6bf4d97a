"""What a machine can do and what a run made of it: probes, the roofline, benchmarks, timelines. Measures; decides
nothing."""
