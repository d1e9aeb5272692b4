"""A client of OpenAI-compatible servers, for agents and simulators."""
