"""Frozen teachers: loading, live and stored answers, and combinations of several teachers."""

from nas_distill.teacher.signal import LiveSignal, TeacherSignal
from nas_distill.teacher.store import TeacherStore
from nas_distill.teacher.teacher import Teacher, freeze, load_teacher, shipped_teachers

__all__ = ["LiveSignal", "Teacher", "TeacherSignal", "TeacherStore", "freeze", "load_teacher", "shipped_teachers"]
