"""What runs beside hostile programs. Standard library only."""
