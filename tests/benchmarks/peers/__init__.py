"""The peers: each function takes a setup and a clock, and runs until the clock ends the process."""
