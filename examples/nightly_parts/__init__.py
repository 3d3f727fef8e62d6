"""The parts of the example of the nightly job."""
