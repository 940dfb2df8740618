"""The store shown in MLflow. The only room that knows mlflow."""
