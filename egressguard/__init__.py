"""egressguard: nobody on the network talks SMTP to the outside, except the hosts that are named."""
