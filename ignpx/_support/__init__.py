"""What every part needs and no user calls: arguments looked at, batches cut, loggers kept quiet."""
