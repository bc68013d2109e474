"""Benchmarks of a bundle on the device it runs on: the command `bench-bilstm`."""
