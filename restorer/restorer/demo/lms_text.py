"""Words for the generated LMS: Vietnamese names made by chance, titles and texts with everything that needs care
(quotes, backslashes, line breaks, tabs, emoji, composed letters)."""

from __future__ import annotations

from itertools import product

FAMILY = (
    "Nguyễn",
    "Trần",
    "Lê",
    "Phạm",
    "Hoàng",
    "Huỳnh",
    "Phan",
    "Vũ",
    "Võ",
    "Đặng",
    "Bùi",
    "Đỗ",
    "Hồ",
    "Ngô",
    "Dương",
)
MIDDLE = ("Thị", "Văn", "Đức", "Ngọc", "Minh", "Thu", "Quốc", "Hữu", "Thanh", "Kim")
GIVEN = (
    "An",
    "Bình",
    "Châu",
    "Dũng",
    "Giang",
    "Hạnh",
    "Khánh",
    "Lan",
    "Mai",
    "Nam",
    "Oanh",
    "Phúc",
    "Sơn",
    "Trang",
    "Vy",
    "Yến",
)
NAMES = tuple(" ".join(parts) for parts in product(FAMILY, MIDDLE, GIVEN))

SUBJECTS = (
    "Rau sạch trên sân thượng",
    "Thủy canh cơ bản",
    "Phân hữu cơ và ủ rác",
    "Kỹ thuật trồng nấm",
    "An toàn thực phẩm",
    "Tiếng Việt thương mại",
    "Toán ứng dụng",
    "Lập trình TypeScript",
    "Cơ sở dữ liệu quan hệ",
    "Marketing nông sản",
)
TOPICS = ("Gieo hạt", "Tưới nhỏ giọt", "Đất và độ pH", "Thu hoạch", "Bảo quản lạnh", "Sâu bệnh", "Giá thể", "Ánh sáng")
TITLES = tuple(f"{subject}: {topic}" for subject, topic in product(SUBJECTS, TOPICS))

TEXTS = (
    "Cảm ơn thầy cô, bài giảng rất dễ hiểu!",
    "Em chưa rõ phần này ạ.",
    "Hôm nay trời mưa, em xin phép nộp bài muộn một ngày.",
    "Nên tưới vào buổi sáng sớm hoặc chiều mát, tránh lúc nắng gắt vì nước nóng làm hỏng rễ cây con.",
    "Tỉ lệ trộn là 3:1 – ba phần đất, một phần phân trùn quế; pH từ 6,0 đến 6,8.",
    'Thầy nói: "Đất khỏe thì cây khỏe", em nhớ mãi 🌱',
    "Dòng một\nDòng hai\r\n\tDòng ba có tab",
    "Đường dẫn C:\\khoa-hoc\\bai-1 và mẫu \\d+ không được đổi",
    "Rau muống, cải ngọt, xà lách: {giá: 25.000đ/kg}, [còn hàng], null, \\N",
    "Chữ tổ hợp: Tiếng Việt; chữ dựng sẵn: Tiếng Việt; 🇻🇳 👩‍🌾 𝒙",
    "  khoảng trắng đầu và cuối  ",
    "",
)
PLAIN = tuple(f"{TEXTS[3]} {topic} – {TEXTS[4]}" for topic in TOPICS)

TAGS = ("nông nghiệp", "hữu cơ", "đô thị", "nấm", "rau", "kinh doanh", "cơ bản", "nâng cao", "thực hành", "chứng chỉ")
AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X)",
    "okhttp/4.12.0",
)
