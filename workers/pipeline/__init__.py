"""The driver of one attempt.

__main__   settings, logging, exit code
session    the talk with the service around the work: start, reports, finish, signals; imports nothing heavy
driver     the work: Ray, actors, stages in order, clean-up
endings    which EndReason an exception means
"""
