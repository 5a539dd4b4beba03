"""The data that the shipped recipes train their teachers on and measure with."""
