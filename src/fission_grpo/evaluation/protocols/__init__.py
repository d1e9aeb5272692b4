"""How an episode is played: ours, and the official ones, each a specification of its own."""
