"""What the tests prove: small changes of the program, each of which a test should find.

`make mutants` takes a seeded sample of changes (mutants) of the rooms named in `rooms.py`. For each
it runs the tests that execute the changed line, and it names the changes that no test found. A
survivor is either equivalent to the program, or a behaviour that nothing proves. It is a tool for
developers and no test: a sample of a hundred takes some twenty minutes.

Each run of tests is a fork of a process that has imported the libraries and nothing of the program
(`warm.py`): a mutant takes a few seconds. A test that fails on the program as it is finds nothing.

Why not a published tool: mutmut forks a process that has imported the program for each mutant, and
a process with gRPC's threads cannot be forked. cosmic-ray selects no tests by coverage and runs all
of them for each mutant. Neither takes statements out, and a missing sync, release or clean-up is
what matters most here. Coverage itself is measured by coverage.py.
"""
