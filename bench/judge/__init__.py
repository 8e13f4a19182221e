"""How good the judge is: simulated hosts of every kind, their verdicts, and what two thresholds would say."""
