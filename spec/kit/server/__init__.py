"""What the chapter `server` needs besides the other kit: devices, processes, runs and their folders."""
