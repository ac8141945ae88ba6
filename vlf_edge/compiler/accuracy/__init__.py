"""What a plan is held to: how it is run here, how far it is from fp32, and what goes back to float for it."""
