"""What the rest of the package asks of the machine and of Python itself; it imports nothing else of the package."""
