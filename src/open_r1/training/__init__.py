"""What happens beside the training steps, and before the first one."""
