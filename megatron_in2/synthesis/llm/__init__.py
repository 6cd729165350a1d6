"""Questions by a language model behind the OpenAI protocol: prompts, journal, money, transports."""
