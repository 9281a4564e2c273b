"""From measured rows to ratios, claims, figures and tables."""
