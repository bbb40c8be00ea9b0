"""A tower in pieces: views of its blocks, the readout of the last one, and the contributions of its heads."""
