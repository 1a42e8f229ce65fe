"""The machine and the libraries under this project: source digests, and the private names of libraries."""
