"""egressguard-milter beside a C milter that does nothing, and beside other limiters, alone and in Postfix."""
