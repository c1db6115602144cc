"""Measures Larder beside what else people would use, in one run and in alternation. `scripts/bench` starts it.

`sizes`, `scratch`, `process` and `measure` know nothing of file systems; `systems` know nothing of work; `workloads`
know nothing of systems but their directory; `rounds` brings both together; `results` and `report` only see numbers.
"""
