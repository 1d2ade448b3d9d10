"""Foreign protocols on the service's own port: the same models, by the same table of methods.

Each package has the rows of one protocol. Its calls pass identity, admission, policy, audit and
metrics as the service's own; its messages come from descriptors in a pool apart, so that the stubs
of those projects can live in the same process.
"""
