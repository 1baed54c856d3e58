"""The stages of an experiment, written against small protocols: they know neither Ray nor HTTP nor vLLM."""
