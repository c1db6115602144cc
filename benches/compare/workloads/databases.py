"""Databases that sync every transaction."""

from . import mariadb, postgres, redis, sqlite
from .base import Family

FAMILY = Family("db", "Databases", (sqlite.JOB, postgres.JOB, mariadb.JOB, redis.JOB))
