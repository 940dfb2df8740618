"""What a trial is, as a fingerprint, and the digests of data and weights that go into it."""
