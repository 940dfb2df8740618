"""What a user declares: experiments, sweeps and the trials that follow from them. pydantic only; imports in milliseconds."""
