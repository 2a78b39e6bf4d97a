"""What the quality ladder is made of: the oracle, the packs to compare, and ways to round experts to two bits."""
