class StructuredOutputsParams:
    """Of LLM alone."""
