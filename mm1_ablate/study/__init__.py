"""Studies are run and kept here: the store, the trials on Ray, the live table, the mirror in MLflow. The only room that knows both."""
