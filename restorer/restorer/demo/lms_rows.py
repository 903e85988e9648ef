"""The good rows of the generated LMS: per table a function from a row's number to the record as a Prisma script has it.

Row `i` is the same whoever asks and whenever: keys and values are computed from the number, nothing is remembered. So
a child knows its parent's key without a list of keys in memory, and a million records cost no more of it than ten.
Foreign keys only point at rows below the parent's `good` count; numbers from there on are free for bad records.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from .lms_text import AGENTS, NAMES, PLAIN, SUBJECTS, TAGS, TEXTS, TITLES, TOPICS

Record = dict[str, Any]
Make = Callable[[int], Record]

_DAYS = tuple(f"{y}-{m:02d}-{d:02d}" for y in range(2021, 2025) for m in range(1, 13) for d in range(1, 29))
_TIMES = tuple(f"T{n % 24:02d}:{n % 60:02d}:{n % 59:02d}.{n * 7 % 1000:03d}Z" for n in range(4999))
_MIDDLE = tuple(f"-{table:04x}-4{table:03x}-a{table:03x}-" for table in range(14))
_BIG = 2**53 + 1  # BigInt keys that a float cannot hold


class World:
    """What rows depend on: how many good rows each table has, the seed, and of how many paragraphs long texts are."""

    def __init__(self, good: Mapping[str, int], seed: int, paragraphs: int = 1) -> None:
        self.good = good
        self.plain = tuple(
            " ".join(PLAIN[(first + n) % len(PLAIN)] for n in range(paragraphs)) for first in range(len(PLAIN))
        )
        self._seed = (seed * 0x85EBCA6B + 0x165667B1) & 0xFFFFFFFF

    def mix(self, i: int) -> int:
        """32 well-stirred bits out of a row's number and the seed."""
        h = (i * 0x9E3779B1 ^ self._seed) & 0xFFFFFFFF
        h = ((h ^ h >> 16) * 0x7FEB352D) & 0xFFFFFFFF
        return h ^ h >> 15

    def uuid(self, table: int, i: int) -> str:
        return f"{(i * 0x9E3779B1 ^ self._seed) & 0xFFFFFFFF:08x}{_MIDDLE[table]}{i:012x}"

    def cuid(self, table: int, i: int) -> str:
        return f"cl{table:x}{(i * 0x9E3779B1 ^ self._seed) & 0xFFFFFFFF:08x}{i:014x}"


def _at(h: int) -> str:
    """An ISO time with Z as JavaScript writes it."""
    return _DAYS[h % 1344] + _TIMES[h % 4999]


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


USER, PROFILE, COURSE, MODULE, LESSON, ENROLLMENT, QUIZ, ATTEMPT, ASSIGNMENT, FILE, SUBMISSION, COMMENT, PAYMENT = (
    range(1, 14)
)


def role(w: World, i: int) -> Record:
    names = ("ADMIN", "INSTRUCTOR", "STUDENT", "Trợ giảng", "KẾ TOÁN")
    return {
        "id": i + 1,
        "name": names[i] if i < len(names) else f"ROLE_{i}",
        "permissions": ["course:read", "khóa học:đọc", 'a,b "c" \\d', ""][: i % 5],
    }


def user(w: World, i: int) -> Record:
    h = w.mix(i)
    record = {
        "id": w.uuid(USER, i),
        "email": f"hocvien{i}@example.edu.vn",
        "fullName": NAMES[h % len(NAMES)],
        "phone": f"+84{900000000 + i % 99999999}" if h & 3 else None,
        "status": ("ACTIVE", "ACTIVE", "INVITED", "SUSPENDED", "DELETED")[h % 5],
        "isVerified": h & 1 == 0,
        "birthDate": f"{1960 + h % 50}-{_DAYS[h % 1344][5:]}T00:00:00.000Z" if h & 7 else None,
        "lastLoginIp": f"10.{h % 250}.{(h >> 8) % 250}.{(h >> 16) % 250}" if h & 15 else "2001:db8::1",
        "balance": str((h << 24) + i),
        "createdAt": _at(h),
        "updatedAt": _at(h >> 3),
    }
    if i % 97 == 50:
        del record["balance"]  # an export of an older version: the column's default is meant
    return record


def profile(w: World, i: int) -> Record:
    h = w.mix(i)
    return {
        "id": w.uuid(PROFILE, i),
        "userId": w.uuid(USER, i),
        "bio": w.plain[h & 7] if h & 8 else TEXTS[h % len(TEXTS)],
        "avatarUrl": f"https://cdn.example.edu.vn/a/{h:08x}.webp" if h & 3 else None,
        "interests": list(TAGS[h % 6 : h % 6 + (h >> 4) % 4]),
        "social": {"zalo": f"0{900000000 + i}", "theo dõi": h % 1000, "links": []} if h & 1 else None,
        "updatedAt": _at(h),
    }


def role_to_user(w: World, i: int) -> Record:
    users = w.good["users"]
    return {"A": (i // users) % w.good["roles"] + 1, "B": w.uuid(USER, i % users)}


def category(w: World, i: int) -> Record:
    good = w.good["categories"]
    # The first ones are roots; of the others some point at a row that only comes later in the file.
    parent = None if i < 4 else (i * 7 + 1) % 4 + 1 if i % 3 else min(i + 2, good)
    return {"id": i + 1, "name": SUBJECTS[i % 10], "slug": f"danh-muc-{i + 1}", "parentId": parent}


def tag(w: World, i: int) -> Record:
    return {"id": i + 1, "name": f"{TAGS[i % 10]} {i // 10 + 1}"}


def course(w: World, i: int) -> Record:
    h = w.mix(i)
    return {
        "id": w.cuid(COURSE, i),
        "title": TITLES[h % 80],
        "slug": f"khoa-hoc-{i + 1}",
        "description": f"{w.plain[h & 7]}\n\n{TEXTS[h % len(TEXTS)]}",
        "level": ("BEGINNER", "INTERMEDIATE", "ADVANCED")[h % 3],
        "status": ("DRAFT", "PUBLISHED", "ARCHIVED")[(h >> 4) % 3],
        "price": _money(h % 500_000_000),
        "categoryId": h % w.good["categories"] + 1,
        "instructorId": w.uuid(USER, h % w.good["users"]),
        "featuredLessonId": w.cuid(LESSON, (h >> 3) % w.good["lessons"]) if h & 1 else None,
        "keywords": [TAGS[h % 10], 'có "ngoặc", phẩy', TOPICS[h & 7]][: h % 4],
        "metadata": {
            "hours": h % 90,
            "ngôn ngữ": "vi",
            "rating": (h % 50) / 10,
            "outline": [TOPICS[h & 7], {"tuần": 1}],
        },
        "publishedAt": _at(h >> 2) if h & 2 else None,
        "createdAt": _at(h >> 5),
    }


def course_to_tag(w: World, i: int) -> Record:
    courses = w.good["courses"]
    return {"A": w.cuid(COURSE, i % courses), "B": (i // courses + i % courses) % w.good["tags"] + 1}


def module(w: World, i: int) -> Record:
    courses = w.good["courses"]
    return {
        "id": w.cuid(MODULE, i),
        "courseId": w.cuid(COURSE, i % courses),
        "title": f"Chương {i // courses + 1}: {TOPICS[i & 7]}",
        "position": i // courses + 1,
    }


def lesson(w: World, i: int) -> Record:
    h = w.mix(i)
    modules = w.good["modules"]
    return {
        "id": w.cuid(LESSON, i),
        "moduleId": w.cuid(MODULE, i % modules),
        "courseId": w.cuid(COURSE, i % modules % w.good["courses"]),
        "title": f"Bài {i + 1}. {TITLES[h % 80]}",
        "content": f"{w.plain[h & 7]} {w.plain[h >> 3 & 7]}" if h & 7 else TEXTS[h % len(TEXTS)],
        "durationSeconds": h % 5400 + 1,
        "isPreview": h & 1 == 0,
        "resources": [{"url": f"https://cdn.example.edu.vn/r/{h:08x}.pdf", "tên": TOPICS[h & 7]}] if h & 6 else [],
        "createdAt": _at(h),
    }


def enrollment(w: World, i: int) -> Record:
    h = w.mix(i)
    users = w.good["users"]
    return {
        "id": w.uuid(ENROLLMENT, i),
        "userId": w.uuid(USER, i % users),
        "courseId": w.cuid(COURSE, (i // users + i % users) % w.good["courses"]),
        "status": ("PENDING", "ACTIVE", "COMPLETED", "CANCELLED")[h & 3],
        "percent": _money(h % 10001),
        "enrolledAt": _at(h),
        "completedAt": _at(h >> 3) if h & 3 == 2 else None,
    }


def progress(w: World, i: int) -> Record:
    h = w.mix(i)
    enrollments = w.good["enrollments"]
    e = i % enrollments
    return {
        "enrollmentId": w.uuid(ENROLLMENT, e),
        "lessonId": w.cuid(LESSON, (i // enrollments + e * 31) % w.good["lessons"]),
        "completed": h & 1 == 0,
        # 1 in 4,096 is a whole number written as a float, as some exporters do: still a good record
        "secondsWatched": h % 5400 if h & 4095 else 60.0,
        "lastPosition": (h % 540_000) / 100,
        "device": {"ua": AGENTS[h % 3], "mạng": "4G"} if h & 3 == 0 else None,
        "updatedAt": _at(h),
    }


def quiz(w: World, i: int) -> Record:
    h = w.mix(i)
    return {
        "id": w.cuid(QUIZ, i),
        "lessonId": w.cuid(LESSON, h % w.good["lessons"]),
        "title": f"Kiểm tra {i + 1}",
        "passScore": h % 101,
        "settings": {"shuffle": h & 1 == 0, "minutes": h % 90, "note": TEXTS[h % len(TEXTS)]} if h & 6 else None,
    }


def question(w: World, i: int) -> Record:
    h = w.mix(i)
    return {
        "id": i + 1,
        "quizId": w.cuid(QUIZ, i % w.good["quizzes"]),
        "kind": ("SINGLE", "MULTIPLE", "TEXT")[h % 3],
        "body": f"{TOPICS[h & 7]}: điều nào đúng? ({h % 1000})",
        "options": [{"key": k, "text": TOPICS[(h + n) & 7]} for n, k in enumerate("ABCD")],
        "correct": [[], [1], [0, 2], [-1, 3]][h >> 4 & 3],
        "points": h % 10 + 1,
    }


def attempt(w: World, i: int) -> Record:
    h = w.mix(i)
    day = _DAYS[h % 1344]
    return {
        "id": w.uuid(ATTEMPT, i),
        "quizId": w.cuid(QUIZ, h % w.good["quizzes"]),
        "userId": w.uuid(USER, i % w.good["users"]),
        "score": _money(h % 10001) if h & 7 else None,
        "durationMs": str(h),
        "startedAt": f"{day}T08:{h % 60:02d}:00.000Z",
        "finishedAt": f"{day}T09:{(h >> 6) % 60:02d}:{(h >> 12) % 60:02d}.{h % 1000:03d}Z" if h & 7 else None,
    }


def answer(w: World, i: int) -> Record:
    h = w.mix(i)
    attempts = w.good["attempts"]
    a = i % attempts
    return {
        "id": str(_BIG + i),
        "attemptId": w.uuid(ATTEMPT, a),
        "questionId": (i // attempts + a) % w.good["questions"] + 1,
        "selected": [[0], [1], [1, 3], []][h & 3],
        "text": TEXTS[h % len(TEXTS)] if h & 3 == 3 else None,
        "isCorrect": (True, False, None)[h % 3],
    }


def assignment(w: World, i: int) -> Record:
    h = w.mix(i)
    return {
        "id": w.cuid(ASSIGNMENT, i),
        "courseId": w.cuid(COURSE, i % w.good["courses"]),
        "title": f"Bài tập {i + 1}: {TOPICS[h & 7]}",
        "maxPoints": h % 100 + 1,
        "rubric": [{"tiêu chí": t, "điểm": h % 10} for t in TOPICS[: h & 3]] if h & 12 else "tự do",
        "dueAt": _at(h),
    }


def file(w: World, i: int) -> Record:
    h = w.mix(i)
    content = h.to_bytes(4, "big") * (64 + h % 448)
    return {
        "id": w.uuid(FILE, i),
        "ownerId": w.uuid(USER, h % w.good["users"]),
        "name": f"Bài nộp {i} – {TOPICS[h & 7]}.pdf",
        "mimeType": "application/pdf",
        "size": str(len(content)),
        "content": base64.b64encode(content).decode(),
    }


def submission(w: World, i: int) -> Record:
    h = w.mix(i)
    assignments = w.good["assignments"]
    return {
        "id": w.uuid(SUBMISSION, i),
        "assignmentId": w.cuid(ASSIGNMENT, i % assignments),
        "userId": w.uuid(USER, (i // assignments + i % assignments) % w.good["users"]),
        "fileId": w.uuid(FILE, h % w.good["files"]) if h & 1 else None,
        "content": TEXTS[h % len(TEXTS)] if h & 3 == 0 else w.plain[h & 7],
        "grade": _money(h % 1001) if h & 6 else None,
        "submittedAt": _at(h),
    }


def comment(w: World, i: int) -> Record:
    h = w.mix(i)
    good = w.good["comments"]
    # Replies: most to an earlier comment, some to one that only comes later in the file, as an export without an
    # order has it. Row 0 and all multiples of 3 are not replies, so no chain goes round in a circle.
    parent = None if i % 3 == 0 else w.uuid(COMMENT, (h % good) // 3 * 3)
    return {
        "id": w.uuid(COMMENT, i),
        "lessonId": w.cuid(LESSON, h % w.good["lessons"]),
        "author": w.uuid(USER, i % w.good["users"]) if h & 31 else None,
        "parentId": parent,
        "body": TEXTS[h % len(TEXTS)] if h & 7 == 0 else w.plain[h & 7],
        "reactions": {"👍": h % 20, "tim": h >> 5 & 7} if h & 1 else {},
        "createdAt": _at(h),
    }


def notification(w: World, i: int) -> Record:
    h = w.mix(i)
    return {
        "id": str(i + 1),
        "userId": w.uuid(USER, h % w.good["users"]),
        "channel": ("EMAIL", "PUSH", "ZALO")[h % 3],
        "title": TITLES[h % 80],
        "body": w.plain[h & 7] if h & 15 else TEXTS[h % len(TEXTS)],
        "data": {"url": f"/khoa-hoc/{h % 500}", "n": h} if h & 1 else None,
        "readAt": _at(h >> 3) if h & 2 else None,
        "createdAt": _at(h),
    }


def payment(w: World, i: int) -> Record:
    h = w.mix(i)
    cents = h % 900_000_000 + 1
    return {
        "id": w.uuid(PAYMENT, i),
        "userId": w.uuid(USER, h % w.good["users"]),
        "courseId": w.cuid(COURSE, h % w.good["courses"]),
        "amount": _money(cents),
        "currency": "VND" if h & 7 else "USD",
        "method": ("MOMO", "VNPAY", "BANK_TRANSFER", "CARD")[h >> 4 & 3],
        "providerRef": f"PAY-{h:08X}-{i}",
        "fee": _money((cents * 29 + 500) // 1000),  # a generated column: exported, never written
        "paidAt": _at(h),
    }


def audit_log(w: World, i: int) -> Record:
    h = w.mix(i)
    return {
        "id": str(_BIG + i),
        "actorId": w.uuid(USER, h % w.good["users"]) if h & 7 else None,
        "action": ("user.login", "course.update", "payment.refund", "grade.change")[h & 3],
        "entity": f"Course:{h % 5000}",
        "changes": {"before": {"title": TITLES[h % 80], "price": h % 9999}, "after": {"title": TEXTS[h % 6]}}
        if h & 3
        else None,
        "ip": f"192.168.{h % 250}.{(h >> 8) % 250}",
        "at": _at(h),
    }


def setting(w: World, i: int) -> Record:
    values: tuple[Any, ...] = (True, 25, 1.5, "chữ", None, [], {"a": {"b": [1, None]}}, ["x", 'y "z"'])
    record = {"key": f"site.option{i}", "value": values[i % 8], "updatedAt": _at(w.mix(i))}
    if i % 2:
        record["description"] = TEXTS[i % len(TEXTS)]  # the others leave it to the column's default
    return record
