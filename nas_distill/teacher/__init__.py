"""Teachers: loading them, freezing them, and what they tell a student."""

from nas_distill.teacher.load import load_teacher, shipped_teachers
from nas_distill.teacher.signal import LiveSignal, TeacherSignal
from nas_distill.teacher.store import TeacherStore
from nas_distill.teacher.teacher import Teacher, freeze

__all__ = ["LiveSignal", "Teacher", "TeacherSignal", "TeacherStore", "freeze", "load_teacher", "shipped_teachers"]
