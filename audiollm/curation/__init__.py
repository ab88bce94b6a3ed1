"""What makes and examines rows."""
