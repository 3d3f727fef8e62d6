"""The parts of the fleet: the payment service, the workers, the ledger's judge, the display."""
