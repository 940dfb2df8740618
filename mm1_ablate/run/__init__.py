"""Trials on Ray: the scheduler, launchers, worker groups, child processes, signals. The only room that knows ray."""
