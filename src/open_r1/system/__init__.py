"""What every other part rests on: files, processes, the network, and the internals of the libraries."""
