"""How far a value walks: the functions and files that a call visits, in the client and the service.

`make walks` serves a small SavedModel with a state directory, makes one call of each kind from the
same process, and prints what a profile hook saw: the functions of this project that were called,
the files that they are in, and how often the walk came back to a file that it had left. The numbers
are to see by: a tangle in fewer files is still a tangle.
"""
