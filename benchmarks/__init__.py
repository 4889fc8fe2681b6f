"""What the speed claims stand on."""
