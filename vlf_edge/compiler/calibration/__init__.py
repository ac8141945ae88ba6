"""Which clips a plan is calibrated and judged on, and their windows as the live runtime takes them."""
