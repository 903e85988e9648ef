"""The tables of the generated LMS: file name and form, share of all records, rows, and what can be bad about them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from . import lms_rows as rows
from .lms_faults import BAD_DATE, LONG, NO_CUID, NO_INT, NO_UUID, Fault, Kind
from .lms_rows import Make, Record, World

Form = Literal["compact", "lines", "pretty", "ascii", "ndjson"]

BROKEN = (Fault("broken_json"), Fault("duplicate_same"))


class Table(NamedTuple):
    """`file`: named as the table or as the Prisma model; `share`: per mille of all records; `fixed`: this many."""

    name: str
    file: str
    make: Callable[[World, int], Record]
    share: int = 0
    fixed: int = 0
    form: Form = "compact"
    faults: tuple[Fault, ...] = ()

    def maker(self, world: World) -> Make:
        """Row number to record, for one world."""
        return partial(self.make, world)


def _set(kind: Kind, /, **values: Any) -> tuple[Fault, ...]:
    return tuple(Fault(kind, column, value) for column, value in values.items())


TABLES: tuple[Table, ...] = (
    Table("roles", "roles.json", rows.role, fixed=5, form="pretty"),
    Table(
        "users", "User.json", rows.user, 60,
        faults=(
            *BROKEN,
            *_set("wrong_type", id="không-phải-uuid", isVerified="có lẽ", balance="mười đồng", lastLoginIp="10.0.0"),
            *_set("null_required", email=None, fullName=None),
            *_set("unknown_enum", status="SLEEPING"),
            *_set("check", email="thiếu-a-còng", birthDate="2021-05-05T00:00:00.000Z"),
            *_set("too_long", fullName=LONG, phone="+84" * 10),
            *_set("impossible_date", birthDate=BAD_DATE, createdAt=BAD_DATE),
            *_set("out_of_range", balance="9223372036854775808"),
            *_set("nul", fullName="Lê\0Thị"),
            Fault("lone_surrogate", "fullName"),
            *_set("duplicate_other", fullName="Tên Khác"),
            Fault("unique_other", "email"),
        ),
    ),
    Table(
        "profiles", "Profile.json", rows.profile, 50, form="lines",
        faults=(
            *BROKEN,
            *_set("missing_parent", userId=NO_UUID),
            *_set("nul", bio="a\0b"),
            *_set("duplicate_other", bio="khác"),
            Fault("lone_surrogate", "bio"),
        ),
    ),
    Table(
        "_RoleToUser", "_RoleToUser.json", rows.role_to_user, 60,
        faults=(*BROKEN, *_set("missing_parent", A=NO_INT, B=NO_UUID), *_set("null_required", A=None)),
    ),
    Table("categories", "categories.json", rows.category, fixed=40, form="ascii"),
    Table("tags", "Tag.json", rows.tag, fixed=100, form="pretty"),
    Table(
        "courses", "courses.json", rows.course, 10, form="pretty",
        faults=(
            *_set("missing_parent", featuredLessonId=NO_CUID, categoryId=NO_INT),
            *BROKEN,
            *_set("check", price="-1.00"),
            *_set("out_of_range", price="99999999999.99"),
            *_set("unknown_enum", level="EXPERT"),
            *_set("too_long", title=LONG),
            Fault("unique_other", "slug"),
            *_set("null_required", title=None),
            *_set("impossible_date", publishedAt=BAD_DATE),
            *_set("duplicate_other", title="Tên khóa học khác"),
        ),
    ),
    Table(
        "_CourseToTag", "_CourseToTag.json", rows.course_to_tag, 20, form="lines",
        faults=(*BROKEN, *_set("missing_parent", A=NO_CUID, B=NO_INT)),
    ),
    Table(
        "modules", "modules.json", rows.module, 20,
        faults=(
            *BROKEN,
            *_set("check", position=0),
            *_set("missing_parent", courseId=NO_CUID),
            Fault("unique_other", "courseId,position"),
        ),
    ),
    Table(
        "lessons", "Lesson.json", rows.lesson, 40,
        faults=(
            *BROKEN,
            *_set("check", durationSeconds=0),
            *_set("wrong_type", durationSeconds="nửa giờ"),
            *_set("missing_parent", moduleId=NO_CUID),
            *_set("nul", content="bài\0giảng"),
            *_set("too_long", title=LONG),
            Fault("lone_surrogate", "content"),
            *_set("out_of_range", durationSeconds=3_000_000_000),
        ),
    ),
    Table(
        "enrollments", "enrollments.json", rows.enrollment, 100,
        faults=(
            *BROKEN,
            *_set("check", percent="100.01"),
            *_set("unknown_enum", status="active"),
            *_set("missing_parent", userId=NO_UUID, courseId=NO_CUID),
            Fault("unique_other", "userId,courseId"),
            *_set("duplicate_other", enrolledAt="2020-01-01T00:00:00.000Z"),
            *_set("impossible_date", enrolledAt=BAD_DATE),
            *_set("out_of_range", percent="12345.00"),
        ),
    ),
    Table(
        "progress", "progress.json", rows.progress, 0,  # what is left
        faults=(
            *BROKEN,
            Fault("unknown_column"),
            *_set("wrong_type", secondsWatched="1 phút", completed="xong"),
            *_set("check", secondsWatched=-5),
            *_set("missing_parent", enrollmentId=NO_UUID, lessonId=NO_CUID),
            *_set("null_required", updatedAt=None),
            *_set("duplicate_other", secondsWatched=99_999),
            *_set("out_of_range", secondsWatched=2_147_483_648),
        ),
    ),
    Table(
        "quizzes", "quizzes.json", rows.quiz, 10, form="lines",
        faults=(*BROKEN, *_set("check", passScore=101), *_set("out_of_range", passScore=40_000)),
    ),
    Table(
        "questions", "Question.json", rows.question, 40,
        faults=(
            *BROKEN,
            *_set("unknown_enum", kind="ESSAY"),
            *_set("wrong_type", correct=["a"], points="nhiều"),
            *_set("missing_parent", quizId=NO_CUID),
            *_set("duplicate_other", body="Câu hỏi khác?"),
        ),
    ),
    Table(
        "attempts", "attempts.json.zst", rows.attempt, 60,
        faults=(
            *BROKEN,
            *_set("check", score="100.50", finishedAt="2020-01-01T00:00:00.000Z"),
            *_set("missing_parent", quizId=NO_CUID),
            *_set("impossible_date", startedAt=BAD_DATE),
            *_set("wrong_type", durationMs="lâu"),
        ),
    ),
    Table(
        "answers", "Answer.json", rows.answer, 120,
        faults=(
            *BROKEN,
            *_set("missing_parent", attemptId=NO_UUID, questionId=NO_INT),
            *_set("wrong_type", id="12a"),
            *_set("out_of_range", id="99999999999999999999"),
            *_set("nul", text="\0"),
            *_set("duplicate_other", text="câu trả lời khác"),
            Fault("unique_other", "attemptId,questionId"),
        ),
    ),
    Table(
        "assignments", "assignments.json", rows.assignment, 10,
        faults=(*BROKEN, *_set("check", maxPoints=0), *_set("impossible_date", dueAt=BAD_DATE)),
    ),
    Table(
        "files", "File.json", rows.file, 4,
        faults=(*_set("check", size="-1"), *_set("wrong_type", content="!!! không phải base64 !!!"), *BROKEN),
    ),
    Table(
        "submissions", "submissions.json", rows.submission, 30,
        faults=(
            *BROKEN,
            *_set("missing_parent", fileId=NO_UUID),
            *_set("out_of_range", grade="1000.00"),
            Fault("unique_other", "assignmentId,userId"),
            *_set("impossible_date", submittedAt=BAD_DATE),
        ),
    ),
    Table(
        "comments", "Comment.json", rows.comment, 60,
        faults=(
            *BROKEN,
            *_set("missing_parent", parentId=NO_UUID, author=NO_UUID),
            *_set("too_long", body=LONG * 7),
            Fault("lone_surrogate", "body"),
            *_set("duplicate_other", body="đã sửa"),
            *_set("null_required", body=None),
        ),
    ),
    Table(
        "notifications", "notifications.ndjson", rows.notification, 80, form="ndjson",
        faults=(
            Fault("broken_line"),
            *BROKEN,
            *_set("unknown_enum", channel="SMS"),
            *_set("nul", title="\0"),
            *_set("missing_parent", userId=NO_UUID),
            *_set("impossible_date", readAt=BAD_DATE),
        ),
    ),
    Table(
        "payments", "payments.json", rows.payment, 40,
        faults=(
            *BROKEN,
            *_set("check", amount="0.00", currency="vnd"),
            *_set("out_of_range", amount="10000000000.00"),
            *_set("too_long", currency="ĐỒNG", providerRef="P" * 65),
            *_set("unknown_enum", method="BITCOIN"),
            Fault("unique_other", "providerRef"),
            *_set("duplicate_other", paidAt="2020-01-01T00:00:00.000Z"),
            *_set("wrong_type", amount="một triệu"),
        ),
    ),
    Table(
        "audit_logs", "AuditLog.json.gz", rows.audit_log, 80,
        faults=(
            *BROKEN,
            Fault("deep", "changes"),
            *_set("wrong_type", ip="999.1.1.1", at="hôm qua"),
            *_set("null_required", action=None),
            Fault("lone_surrogate", "action"),
            *_set("nul", changes={"after": {"title": "a\0b"}}),
            *_set("duplicate_other", action="user.logout"),
        ),
    ),
    Table("settings", "settings.json", rows.setting, fixed=20, form="pretty"),
)  # fmt: skip
