# The server of docs/flows.md with one model, as MLflow's registry keeps it. In the project's folder:
#   mlflow artifacts download --artifact-uri models:/calm-msp@champion --dst-path served
#   docker build -f docs/serving.Dockerfile -t calm-served .
#   docker run -p 5001:5001 calm-served
FROM python:3.11-slim
COPY . /src
RUN pip install --no-cache-dir '/src[transcribe]' 'mlflow>=3.17' 'fastapi<=0.154' pandas && mv /src/served /served && rm -r /src
USER nobody
ENV HOME=/tmp
EXPOSE 5001
CMD ["mlflow", "models", "serve", "-m", "/served", "--env-manager", "local", "--host", "0.0.0.0", "--port", "5001"]
