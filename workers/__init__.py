"""Scoring head masks: data, metrics, the engine, replicas and the pools that hold them."""
