"""The actors: booking decides, payment and notification carry out."""
