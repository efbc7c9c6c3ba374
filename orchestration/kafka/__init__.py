"""What a local Apache Kafka needs: its jars, fetched through Maven from `pom.xml`, and the Java to run them.

Here: finding Java and Maven, fetching the jars. Not here: starting and stopping a broker
(`orchestration.kafka.broker`).
"""
