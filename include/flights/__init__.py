"""The first example: will a flight from New York arrive late? A user's own code, with nothing of Perennial in it."""
