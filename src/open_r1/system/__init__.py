"""The machine and its libraries: files, locks, processes, network, hardware."""
