"""Generated from the .proto files by `make proto`."""
