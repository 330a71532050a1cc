"""The long proofs: the suite's own tests at full size, and what they showed."""
