"""The firewall's hot paths: a blocked packet, a packet that passes, reading the counters, one change."""
